"""Core ML: ML Programs for iPhones, iPads and Macs, written and verified on any machine."""
