"""Networks, and what the rest of the system may know of one."""
