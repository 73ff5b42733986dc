"""The lab: virtual machines with real faults boot the image, and what the agent finds is compared with the fault."""
