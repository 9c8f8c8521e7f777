"""Core AI, Apple's successor to Core ML (experimental): written and executed with Apple's pre-release packages."""
