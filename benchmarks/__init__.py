"""cmexport measured against its rivals; not part of the installed package."""
