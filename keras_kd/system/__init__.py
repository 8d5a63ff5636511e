"""What stands below everything else: files, text for a terminal, checks of arguments."""
