"""Android phones behind `adb`: the program itself, what a phone says about itself, and native runners."""
