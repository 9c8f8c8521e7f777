from support.judging import ruler_file, tiny

__all__ = ["ruler_file", "tiny"]
