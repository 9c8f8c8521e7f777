"""The small web server behind `--device browser`: one page, one link, one visitor."""
