"""Follow VMs by one property filter: the filter, its updates, and the loop that reads them."""
