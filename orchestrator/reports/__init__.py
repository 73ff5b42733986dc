"""What a run says to people and programs outside: the report, its signature, and the forms that other tools read."""
