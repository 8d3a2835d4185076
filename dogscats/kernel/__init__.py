"""The kernel head: a head in closed form, with leave-one-out. Not in the lesson."""
