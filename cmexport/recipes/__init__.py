"""Recipe files: what is to be exported, verified, benched and reported, end to end and resumable."""
