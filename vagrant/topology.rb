# topology.yaml with what the user overrides: topology.local.yaml merged over it, then variables of the environment.
#
# Run by itself it prints the result as JSON: ruby vagrant/topology.rb

require "ipaddr"
require "json"
require "socket"
require "yaml"

module Topology
  # An override that cannot be; the message is one line: what, where, what to do.
  class Wrong < StandardError; end

  LOCAL = "topology.local.yaml".freeze

  # What topology.yaml may say and need not, by the place it is said in.
  OPTIONAL = { "machines" => %w[address memory_mb cpus] }.freeze

  module_function

  # Returns the description with nothing left open: every machine has an address, memory_mb and cpus.
  def resolve(directory, environment)
    description = read(File.join(directory, "topology.yaml"))
    local = File.join(directory, LOCAL)
    merge(description, read(local), "") if File.exist?(local)
    override(description, environment)
    settle(description)
  end

  # The mask of a range, as Vagrant wants it.
  def netmask(text)
    IPAddr.new("255.255.255.255").mask(range("network", text).prefix).to_s
  end

  def read(path)
    content = YAML.safe_load(File.read(path)) || {}
    raise Wrong, "#{File.basename(path)}: must be a mapping, like topology.yaml" unless content.is_a?(Hash)

    content
  rescue Psych::Exception => e
    raise Wrong, "#{File.basename(path)}: no YAML: #{e.message.tr("\n", ' ')}"
  end

  # Mappings are merged key by key, anything else is replaced; a key that topology.yaml does not know is a mistake.
  def merge(base, over, path)
    over.each do |key, value|
      place = path.empty? ? key.to_s : "#{path}.#{key}"
      known = base.key?(key) || (OPTIONAL[path.rpartition(".").first] || []).include?(key)
      raise Wrong, "#{LOCAL}: #{place} means nothing here; known are #{base.keys.join(', ')}" unless known

      if base[key].is_a?(Hash) != value.is_a?(Hash)
        raise Wrong, "#{LOCAL}: #{place} must be #{base[key].is_a?(Hash) ? 'a mapping' : 'a single value'}"
      end

      value.is_a?(Hash) ? merge(base[key], value, place) : base[key] = value
    end
  end

  # KPX_BOX and the like for all machines, KPX_LB1_ADDRESS and the like for one.
  def override(description, environment)
    given = environment.select { |name, value| name.start_with?("KPX_") && !value.empty? }
    %w[box network memory_mb cpus].each { |key| take(given, "KPX_#{key.upcase}", description, key) }
    take(given, "KPX_PROXY_MODE", description["agent"], "proxy_mode")
    description["machines"].each do |name, machine|
      OPTIONAL["machines"].each { |key| take(given, "KPX_#{name.upcase}_#{key.upcase}", machine, key) }
    end
  end

  def take(given, variable, target, key)
    target[key] = given[variable] if given.key?(variable)
  end

  # Gives every machine what it lacks and checks what it has.
  def settle(description)
    network = range("network", description["network"], "192.168.56.0/24")
    description["network"] = "#{network}/#{network.prefix}"
    description["machines"].each do |name, machine|
      number = count("#{name}: number", machine.delete("number"))
      machine["address"] = address(name, machine["address"], number, network)
      %w[memory_mb cpus].each { |key| machine[key] = count("#{name}: #{key}", machine[key] || description[key]) }
    end
    unique(description["machines"])
    check_services(description)
    description
  end

  def check_services(description)
    services = range("service_range", description["service_range"])
    description["service_range"] = "#{services}/#{services.prefix}"
    description["addresses"].each { |name, given| plain_address("addresses: #{name}", given, "10.96.0.80") }
    balancers = description["machines"].select { |_, machine| machine["role"] == "lb" }.keys
    description["routes"].each do |name, gateway|
      raise Wrong, "routes: #{name}: #{gateway} is none of #{balancers.join(', ')}" unless balancers.include?(gateway)
    end
  end

  def range(what, text, example = "10.96.0.0/16")
    raise IPAddr::InvalidAddressError, "no length" unless text.to_s.include?("/")

    found = IPAddr.new(text.to_s)
    found.ipv4? ? found : raise(IPAddr::InvalidAddressError, "not IPv4")
  rescue IPAddr::Error
    raise Wrong, "#{what}: #{text.inspect} is no IPv4 range; give one such as #{example}"
  end

  def plain_address(what, given, example)
    found = IPAddr.new(given.to_s)
    found.ipv4? ? found : raise(IPAddr::InvalidAddressError, "not IPv4")
  rescue IPAddr::Error
    raise Wrong, "#{what}: #{given.inspect} is no IPv4 address; give one such as #{example}"
  end

  def address(name, given, number, network)
    usual = IPAddr.new(network.to_i + number, Socket::AF_INET)
    found = given ? plain_address(name, given, usual) : usual
    ends = network.to_range.minmax
    # The first address is the host's own: VirtualBox and libvirt both take it.
    return found.to_s if network.include?(found) && ![*ends, ends.first.succ].include?(found)

    raise Wrong, "#{name}: #{found} is not a machine's address in #{network}/#{network.prefix} (the first one is the host's own)"
  end

  def count(what, given)
    Integer(given.to_s, 10).tap { |found| raise ArgumentError, "not positive" unless found.positive? }
  rescue ArgumentError
    raise Wrong, "#{what}: #{given.inspect} must be a whole number above 0"
  end

  def unique(machines)
    machines.group_by { |_, machine| machine["address"] }.each do |address, same|
      raise Wrong, "#{same.map(&:first).join(' and ')} have the same address #{address}" if same.size > 1
    end
  end
end

if $PROGRAM_NAME == __FILE__
  begin
    puts JSON.pretty_generate(Topology.resolve(__dir__, ENV.to_h))
  rescue Topology::Wrong => e
    warn "vagrant/topology.rb: #{e.message}"
    exit 2
  end
end
