"""Play: wire messages, frame clock, the engine that owns the device, pane sources, encoders, the server and its page."""
