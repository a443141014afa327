"""Our models inside other people's evaluation tools: lmms-eval and VLMEvalKit.

Nothing else of VLForge imports this package, and each module needs its tool installed.
"""
