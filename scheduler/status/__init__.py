"""What people see: reasons in words, ways out, the page, and the kubectl plugin."""
