"""The ontology, the labelings, label tables, and views of a data set."""
