"""One intermediate form: the sampler as a `torch.export.ExportedProgram`, and the rewrites that make it small."""
