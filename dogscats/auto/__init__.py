"""The search of `recipe=auto`: networks and image sizes, chosen by leave-one-out within a time."""
