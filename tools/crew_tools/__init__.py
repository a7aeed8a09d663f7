"""What a model can call: the tools of the crew and the file tools that a host may lack."""
