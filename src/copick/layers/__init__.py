"""Places that hold copick data, behind one interface (`copick.layers.layer.Layer`)."""
