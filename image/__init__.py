"""What makes the PXE live image and boots it. Nothing of the product imports this."""
