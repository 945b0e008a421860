"""Do the paper's claims hold on another BERT, measured by this project? One verdict a claim."""
