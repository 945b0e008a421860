"""Q-BERT: how sensitive each layer of a BERT is, and how few bits it can live with."""
