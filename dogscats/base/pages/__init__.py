"""What pages share: one style sheet, one script, and how a page is put together."""
