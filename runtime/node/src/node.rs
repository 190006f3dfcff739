//! A node: all concerns wired together, from settings to listening sockets and back to a clean end.
