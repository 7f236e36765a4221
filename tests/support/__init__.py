"""What tests are made of: real servers, real Redis, real workers, scripted sockets."""
