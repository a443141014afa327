"""The chat page: pictures and questions from a browser, answers piece by piece, votes."""
