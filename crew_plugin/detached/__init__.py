"""Supervisors in processes of their own, which outlive whoever started them."""
