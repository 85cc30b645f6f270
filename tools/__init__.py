"""Programs for those who develop and test cbtfs."""
