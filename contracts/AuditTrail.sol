// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

/// @title Anchors of transparency logs
/// @notice Remembers, for ever and for everyone, when the hash of a log's checkpoint was first shown to it, and by whom.
///
/// An anchor is written once: nobody can change, move or remove it, neither who wrote it nor the owner. The owner decides who
/// may write from now on, and nothing else. There is no proxy, no pause and no way to destroy the contract.
/// @dev Of an anchor, storage holds the time, the submitter, the submitter's running number and the digest of the metadata (two
/// slots); the metadata itself is in the event. A proof of the storage alone (EIP-1186) therefore shows an anchor, and, with
/// `anchorCount`, that no other by this submitter is withheld.
contract AuditTrail {
    /// @dev An anchor: two slots of storage.
    /// @param head Of 256 bits, from the lowest: 40 of the time of its block, in seconds since 1970; 160 of the submitter; 56 of
    /// how many anchors the submitter had written then, this one included. All zero where there is no anchor.
    /// @param metadataDigest keccak256 of the metadata's bytes.
    struct Anchor {
        uint256 head;
        bytes32 metadataDigest;
    }

    /// @notice The longest metadata, in bytes, so that whoever reads the events knows what to expect.
    uint256 public constant MAX_METADATA = 1024;

    uint256 private constant MAY_WRITE = 1;
    uint256 private constant ONE_MORE = 1 << 8;

    /// @notice Decides who may write.
    address public owner;
    /// @notice Becomes the owner as soon as it accepts; zero if nobody has been asked.
    address public pendingOwner;

    mapping(bytes32 hash => Anchor) private _anchors;
    /// @dev Of 256 bits: the lowest says whether the account may write; those from the ninth on, how many anchors it has written.
    mapping(address account => uint256) private _senders;

    /// @notice A hash was anchored.
    /// @param hash SHA-256 of a checkpoint, as it is stored.
    /// @param timestamp Time of the block, in seconds since 1970.
    /// @param metadata What the submitter says of it: JSON in canonical form (RFC 8785).
    /// @param submitter The account that wrote it.
    event HashAnchored(bytes32 indexed hash, uint256 timestamp, string metadata, address indexed submitter);
    /// @notice An account may write from now on.
    event AuthorizedAnchorAdded(address indexed account);
    /// @notice An account may no longer write; what it wrote stays.
    event AuthorizedAnchorRemoved(address indexed account);
    /// @notice The owner has asked an account to become the owner; zero takes that back.
    event OwnershipTransferStarted(address indexed from, address indexed to);
    /// @notice The owner is another one.
    event OwnershipTransferred(address indexed from, address indexed to);

    /// @notice The account may not write.
    error NotAuthorized(address account);
    /// @notice The account is not the owner.
    error NotOwner(address account);
    /// @notice The account was not asked to become the owner.
    error NotPendingOwner(address account);
    /// @notice The hash is anchored, and an anchor is written once.
    error AlreadyAnchored(bytes32 hash);
    /// @notice The hash is not anchored.
    error NotAnchored(bytes32 hash);
    /// @notice As many texts as hashes are needed, and at least one.
    error BadBatch(uint256 hashes, uint256 texts);
    /// @notice The metadata is longer than `MAX_METADATA`.
    error MetadataTooLong(uint256 length);
    /// @notice The zero address owns nothing and writes nothing.
    error ZeroAddress();

    modifier onlyOwner() {
        if (msg.sender != owner) revert NotOwner(msg.sender);
        _;
    }

    /// @param initialOwner Decides who may write. Best an account that is on no server.
    /// @param sender May write from the beginning; zero for nobody.
    constructor(address initialOwner, address sender) {
        if (initialOwner == address(0)) revert ZeroAddress();
        owner = initialOwner;
        emit OwnershipTransferred(address(0), initialOwner);
        if (sender != address(0)) {
            _senders[sender] = MAY_WRITE;
            emit AuthorizedAnchorAdded(sender);
        }
    }

    /// @notice Anchors a hash. Reverts if it is anchored.
    /// @param hash SHA-256 of a checkpoint, as it is stored.
    /// @param metadata Goes into the event; its digest into storage.
    function anchorHash(bytes32 hash, string calldata metadata) external {
        uint256 sender = _authorized();
        unchecked {
            sender += ONE_MORE;
        }
        _anchor(hash, metadata, sender);
        _senders[msg.sender] = sender;
    }

    /// @notice Anchors several hashes, all or none.
    /// @param hashes None of them anchored, none twice.
    /// @param metadata One text for each.
    function batchAnchor(bytes32[] calldata hashes, string[] calldata metadata) external {
        uint256 length = hashes.length;
        if (length == 0 || length != metadata.length) revert BadBatch(length, metadata.length);
        uint256 sender = _authorized();
        for (uint256 i = 0; i < length; ++i) {
            unchecked {
                sender += ONE_MORE;
            }
            _anchor(hashes[i], metadata[i], sender);
        }
        _senders[msg.sender] = sender;
    }

    /// @notice Whether a hash is anchored with exactly this time. False for what is not anchored, whatever the time.
    /// @param timestamp In seconds since 1970.
    function verifyHash(bytes32 hash, uint256 timestamp) external view returns (bool) {
        uint256 head = _anchors[hash].head;
        return head != 0 && uint40(head) == timestamp;
    }

    /// @notice The anchor of a hash. Reverts where there is none.
    /// @return timestamp Time of its block, in seconds since 1970.
    /// @return submitter The account that wrote it.
    /// @return metadataDigest keccak256 of the metadata's bytes.
    function getAnchor(bytes32 hash)
        external
        view
        returns (uint256 timestamp, address submitter, bytes32 metadataDigest)
    {
        (timestamp, submitter,, metadataDigest) = anchors(hash);
        if (timestamp == 0) revert NotAnchored(hash);
    }

    /// @notice The anchor of a hash; all zero where there is none.
    /// @return timestamp Time of its block, in seconds since 1970.
    /// @return submitter The account that wrote it.
    /// @return sequence How many anchors the submitter had written then, this one included: from 1, without gaps.
    /// @return metadataDigest keccak256 of the metadata's bytes.
    function anchors(bytes32 hash)
        public
        view
        returns (uint256 timestamp, address submitter, uint256 sequence, bytes32 metadataDigest)
    {
        Anchor storage anchor = _anchors[hash];
        uint256 head = anchor.head;
        return (uint40(head), address(uint160(head >> 40)), head >> 200, anchor.metadataDigest);
    }

    /// @notice Whether an account may write.
    function authorizedAnchors(address account) external view returns (bool) {
        return _senders[account] & MAY_WRITE != 0;
    }

    /// @notice How many anchors an account has written.
    function anchorCount(address account) external view returns (uint256) {
        return _senders[account] >> 8;
    }

    /// @notice Lets an account write.
    function addAuthorizedAnchor(address account) external onlyOwner {
        if (account == address(0)) revert ZeroAddress();
        _senders[account] |= MAY_WRITE;
        emit AuthorizedAnchorAdded(account);
    }

    /// @notice Lets an account write no longer. What it wrote stays, and is counted on if it may write again.
    function removeAuthorizedAnchor(address account) external onlyOwner {
        _senders[account] &= ~MAY_WRITE;
        emit AuthorizedAnchorRemoved(account);
    }

    /// @notice Asks an account to become the owner, in the place of whoever was asked before; zero asks nobody.
    function transferOwnership(address to) external onlyOwner {
        pendingOwner = to;
        emit OwnershipTransferStarted(msg.sender, to);
    }

    /// @notice Makes who was asked the owner.
    function acceptOwnership() external {
        if (msg.sender != pendingOwner) revert NotPendingOwner(msg.sender);
        emit OwnershipTransferred(owner, msg.sender);
        owner = msg.sender;
        pendingOwner = address(0);
    }

    function _authorized() private view returns (uint256 sender) {
        sender = _senders[msg.sender];
        if (sender & MAY_WRITE == 0) revert NotAuthorized(msg.sender);
    }

    function _anchor(bytes32 hash, string calldata metadata, uint256 sender) private {
        if (bytes(metadata).length > MAX_METADATA) revert MetadataTooLong(bytes(metadata).length);
        Anchor storage anchor = _anchors[hash];
        if (anchor.head != 0) revert AlreadyAnchored(hash);
        // A count of 2^56 is more than any chain can write.
        anchor.head = (sender >> 8) << 200 | uint256(uint160(msg.sender)) << 40 | block.timestamp;
        anchor.metadataDigest = keccak256(bytes(metadata));
        emit HashAnchored(hash, block.timestamp, metadata, msg.sender);
    }
}
