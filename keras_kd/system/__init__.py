"""What stands below everything else: files from elsewhere, and text for a terminal."""
