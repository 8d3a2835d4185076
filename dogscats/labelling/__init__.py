"""Photos without labels: which to label next, a page to do so, and the formats of other tools."""
