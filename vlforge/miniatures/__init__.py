"""The known systems' folders in small: original layout, original formats, seconds to write."""
