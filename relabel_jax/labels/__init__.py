"""The ontology, the labelings, and the views on a data set that they make."""
