"""Assembly: settings, transport, interception, health, reflection, metrics, start and drain."""
