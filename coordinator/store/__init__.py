"""Tables, transactions, migrations and blobs. It stores and does not judge."""
