"""Pure codecs: values to bytes and back, one kernel protocol a module. No sockets here."""
