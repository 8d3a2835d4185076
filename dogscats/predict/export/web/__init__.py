"""Export of a web page that runs the classifier in the visitor's browser."""
