"""What a Lectern server runs: a package per capability, the runtime, the codecs, and the server that assembles them."""
