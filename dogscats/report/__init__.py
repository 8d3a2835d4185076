"""All that is drawn and written for people."""
