"""Files by URL: listing, reading, copying, looking into safetensors, loading onto devices."""
