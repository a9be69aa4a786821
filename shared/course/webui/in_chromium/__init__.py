"""What the checks do in Chromium: on any chat page, and on the lab's own one."""
