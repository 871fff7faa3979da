"""The ontology, the labelings, and the views of a data set that follow from them."""
