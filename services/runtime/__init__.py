"""Model repository, engines and scheduler; knows nothing of services or transports."""
