"""What the page Learn teaches: six steps, their settings, plans, questions and hand-out. Nothing here draws."""
