"""A loaded model behind HTTP and gRPC. The process that supervises the workers imports no torch."""
