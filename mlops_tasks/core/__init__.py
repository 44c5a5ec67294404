"""The computing, without clients: windows, expectations, network, fitting, metrics, gates, drift."""
