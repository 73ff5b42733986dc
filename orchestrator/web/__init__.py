"""The operators' console: pages for people, over the same service and store as the agents' and the local API."""
