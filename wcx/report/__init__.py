"""Tables and figures: pure functions of records (and, for the figures of single images, of maps)."""
