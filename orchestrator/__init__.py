"""The other end of the wire: runs, their states, and the operator's side."""
