"""What lies in a results directory: points, paths, records, and the walk along a chain."""
