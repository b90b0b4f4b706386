"""What can be asked? One module per noun: transactions, no Flask, no SQL."""
