"""`mlops backtest`: history replayed, to see what a rule would have done."""
