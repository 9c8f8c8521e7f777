"""Where artefacts are benched: this machine, one behind ssh, a phone on a cable, anything with a browser."""
