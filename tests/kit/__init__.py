"""What tests share: the database server, the event loop, factories. Must not hold assertions of its own."""
